"""Settings of a sampler that are found by measurement, without a look at any query."""
