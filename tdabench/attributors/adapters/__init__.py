"""What stands between this package and the libraries whose methods it runs."""
