"""What lies on disk? Verified artifacts, their paths, items, arrays and documents."""
