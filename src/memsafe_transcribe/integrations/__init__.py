"""At home in other people's frameworks: a file each, behind the extra of its name."""
