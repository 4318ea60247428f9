"""The served model's side: one narrow protocol, and the aiohttp client that implements it."""
