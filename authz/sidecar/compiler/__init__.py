"""From a policy folder to processes that answer by it, apart from those that answer now."""
