"""What Python lacks of Linux; nothing of containers."""
