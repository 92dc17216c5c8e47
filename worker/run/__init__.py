"""One run of the queue: claim, work, settle, finish. Read run.py, job.py, image.py in this order."""
