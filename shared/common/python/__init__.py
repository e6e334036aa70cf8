"""What the packages of this repository have in common; every package carries its own copy."""
