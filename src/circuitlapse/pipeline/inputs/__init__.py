"""Which base, prompts and checkpoint does a job read?"""
