"""All operators. Importing this package enters every one in the registry."""

from __future__ import annotations

from graphc.ops import accuracy as accuracy
from graphc.ops import binary as binary
from graphc.ops import conv as conv
from graphc.ops import distance as distance
from graphc.ops import dropout as dropout
from graphc.ops import elementwise as elementwise
from graphc.ops import infogain as infogain
from graphc.ops import label as label
from graphc.ops import linear as linear
from graphc.ops import loss as loss
from graphc.ops import lrn as lrn
from graphc.ops import neuron as neuron
from graphc.ops import pool as pool
from graphc.ops import shape as shape
from graphc.ops import softmax as softmax
