"""What CRI means, over the interfaces: order, locks, joining, recovery. No backend, store or network is imported here."""
