"""A Hub on this machine that speaks the real protocol to the real client, and has bad days on demand."""
