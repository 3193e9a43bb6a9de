"""What can a method do, as found on made-up problems?"""
