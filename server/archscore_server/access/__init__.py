"""Who may call: tokens, TLS, and where the server may listen without them."""
