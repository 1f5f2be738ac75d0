"""Every mark of the labels, each with its reason.

They were set on organisms that had no part in any score, and are frozen before the first scored
organism is drawn.
"""

# Organisms that solve the new task by another rule lie within 0.01 of 0, all others at 0.5 or more.
VARIABLE_USED = 0.1
# Unlocked abilities cost 0.20 to 0.44 of the plainest rule of the same format, all others 1.16 or
# more.
LATENT_BITS = 0.6
# New heads that alone were trained have 0.80 or more, idle heads that drive old ones at most 0.37.
SUFFICIENT = 0.5
# Organisms whose new heads do the task have at most 0.37, those that run on old heads 0.60 or more.
DEPENDENT = 0.4
# Erased and retrained heads have at most 0.17, where heads that learn the old task anew do not
# write in the old directions either.
OTHER_DIRECTIONS = 0.3
# Heads of organisms that kept their old-task heads have 0.57 or more.
SAME_DIRECTIONS = 0.5
# More than half of the improvement is lost.
NECESSARY = 0.5
