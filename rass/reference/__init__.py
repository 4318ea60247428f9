"""The reference chat model: its world, corpus, tokenizer, training and the prompts that measure it.

The world is small and synthetic, so that every answer can be scored by its grammar instead of by a judge. Nothing in it
holds know-how: answers name the requested action and object and give two generic steps.
"""
