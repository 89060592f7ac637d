"""What this process may not do on its machine, told when it starts and not when it fails.

`rules` decides, from plain facts; `survey` gathers these from the system.
"""

from wingsd.privileges.rules import Facts, shortcomings
from wingsd.privileges.survey import survey

__all__ = ["Facts", "shortcomings", "survey"]
