"""Which settings of a method are best, judged on the tuning queries?"""
