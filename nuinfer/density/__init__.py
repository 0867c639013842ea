"""Densities of weighted events by normalizing flows and flow matching.

What to use when:

- `fit_density` -> `Density`: q(y), or q(y | x) with flat columns and clouds as x.  It can be evaluated and drawn from;
  a ratio (`nuinfer.ratio`) can only be evaluated, and is the easier thing to learn where that is enough.
- ``network=``: `NSF` to begin with, `MAF` for nearly Gaussian densities, `FlowMatching` for more than ten columns.

`Density.report` says on other events whether it is to be trusted.
"""

from .columns import Column, Columns
from .flow_density import Density, fit_density
from .flow_matching import FlowMatching
from .flows import MAF, NSF
from .reports import DensityReport

__all__ = ["MAF", "NSF", "Column", "Columns", "Density", "DensityReport", "FlowMatching", "fit_density"]
