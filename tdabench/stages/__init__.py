"""One function a stage: where the rooms meet. Load, call one function of a room, save."""

from tdabench.stages.agreement import agree as agree
from tdabench.stages.agreement import properties as properties
from tdabench.stages.attribution import attribute as attribute
from tdabench.stages.attribution import sample as sample
from tdabench.stages.attribution import vary as vary
from tdabench.stages.banks import bank as bank
from tdabench.stages.commands import check as check
from tdabench.stages.commands import methods as methods
from tdabench.stages.comparison import compare as compare
from tdabench.stages.detection import detect as detect
from tdabench.stages.diagnosis import diagnose as diagnose
from tdabench.stages.growth import grow as grow
from tdabench.stages.judgement import evaluate as evaluate
from tdabench.stages.judgement import report as report
from tdabench.stages.planning import power as power
from tdabench.stages.removal import contrast as contrast
from tdabench.stages.removal import keep as keep
from tdabench.stages.removal import remove as remove
from tdabench.stages.truth import dataset as dataset
from tdabench.stages.truth import retrain as retrain
from tdabench.stages.truth import split as split
from tdabench.stages.truth import train as train
