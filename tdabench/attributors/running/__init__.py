"""Running a method as the benchmark does: measured, its passes counted, its result checked."""
