"""The hosts that this library is at home in: one file each, which imports its library. Import the one that you need."""
