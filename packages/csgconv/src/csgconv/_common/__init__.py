# edit in shared/common/python/__init__.py
"""What the packages of this repository have in common; every package carries its own copy."""
