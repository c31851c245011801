"""Many users at once: one engine, HTTP and WebSocket in front of it."""
