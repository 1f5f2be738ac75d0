"""From an experiment to a finished run directory: a graph of pure jobs and what carries it out.

Importing this package imports no torch, so that finished runs are read without it.
"""

from circuitlapse.pipeline.execute import LostError
from circuitlapse.pipeline.plan import Job, plan_jobs
from circuitlapse.pipeline.progress import Listener, Progress
from circuitlapse.pipeline.run import jobs_of, run_in

__all__ = ["Job", "Listener", "LostError", "Progress", "jobs_of", "plan_jobs", "run_in"]
