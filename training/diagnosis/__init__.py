"""What a run would stumble over, found before it starts."""
