"""Are the chains' draws worth anything?"""
