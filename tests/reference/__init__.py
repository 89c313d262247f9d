"""Plain restatements of published formulations that faster code is compared with."""
