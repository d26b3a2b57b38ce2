"""What every Towline service shares: its server, its settings, its logging, its way to PostgreSQL."""
