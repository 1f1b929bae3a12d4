"""The command line: each command parses its options, calls one function of the library and prints what came of it.

Nothing heavy is imported before a command needs it, so that help appears at once.
"""

from screening.cli import doctor as doctor
from screening.cli import enumerate as enumerate
from screening.cli import evaluate as evaluate
from screening.cli import merge as merge
from screening.cli import models as models
from screening.cli import pack as pack
from screening.cli import query as query
from screening.cli import relax as relax
from screening.cli import report as report
from screening.cli import screen as screen
from screening.cli import slurm as slurm
from screening.cli import training as training
from screening.cli.app import app as app
from screening.cli.app import main as main
