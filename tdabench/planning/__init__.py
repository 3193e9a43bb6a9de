"""What a run will take: from costs measured at small sizes to jobs, minutes, memory and disk. Imports no torch."""
