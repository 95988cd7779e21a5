"""Who may connect, and how much of the server one caller may have."""
