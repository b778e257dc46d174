"""The API described by itself: an OpenAPI 3.1 document out of the route tables, and its page."""
