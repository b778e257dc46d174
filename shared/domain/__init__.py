"""Values and errors that every layer speaks: frozen attrs classes, stdlib only, no I/O."""
