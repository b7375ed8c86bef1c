"""What came out of a run: scores, statistics, reports and pictures.

`report` and `finetune_report` write report.html from what a job left in its folder, `final` scores cases kept for the
end. `metrics` scores label maps and `evaluate` whole folders of them, `compare` says whether runs differ. `figures` and
`curves` draw crops with their labels, and the course of training.
"""
