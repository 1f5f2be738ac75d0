"""From nothing to a verdict in Python: the demo, or the experiment file that is named."""

import sys

import circuitlapse as cl

experiment = cl.read_experiment(sys.argv[1]) if len(sys.argv) > 1 else cl.demo_experiment()
run = cl.run_experiment(experiment, out=sys.argv[2] if len(sys.argv) > 2 else "runs/demo")

print(run.verdict.label, "-", run.verdict.sentence)
print(run.table("overlap").filter(measure="pearson", unit="nodes"))
print(run.report)
