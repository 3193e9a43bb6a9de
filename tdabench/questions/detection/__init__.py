"""Are wrong labels found?"""
