"""What came out of a run: its report and its pictures.

``report.write_report(run)`` writes report.html from what a job left in its folder; ``figures.draw_crops`` and
``figures.draw_curves`` draw crops with their labels, and the course of training.
"""
