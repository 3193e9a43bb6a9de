"""The workflow of this clone: every experiment in experiments/ is a target, and the rules are those that the package ships."""

import tdabench.workflow


# Used with --software-deployment-method apptainer only; profiles/container.def says how to build it.
container: "tdabench.sif"


include: tdabench.workflow.SNAKEFILE
