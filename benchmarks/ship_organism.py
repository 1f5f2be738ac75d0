"""Pretrain the default organism with seed 0 and put it where the package ships it."""

import shutil
import tempfile

from circuitlapse.organisms.organism import SHIPPED, pretrain
from circuitlapse.organisms.recipe import get_recipe

with tempfile.TemporaryDirectory() as directory:
    made = pretrain(get_recipe("default"), 0, directory, print)
    target = SHIPPED / "default-0"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target)
