"""What Python lacks of Linux. Nothing of containers is in here."""
