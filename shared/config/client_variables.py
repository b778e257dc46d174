"""The variables of the command `meridian`, by which it finds a proxy; the services read none.

Of each kind the first that is set counts.
"""

from __future__ import annotations

URL_VARIABLES = ("MERIDIAN_URL", "LITELLM_PROXY_URL")
KEY_VARIABLES = ("MERIDIAN_KEY", "LITELLM_PROXY_API_KEY", "LITELLM_MASTER_KEY")
