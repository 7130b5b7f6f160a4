"""Objects in 3D: boxes, cameras, votes, average precision, and the network that finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equifuse._lazy import attach

if TYPE_CHECKING:
    from equifuse.detection.boxes import box_corners as box_corners
    from equifuse.detection.boxes import box_iou as box_iou
    from equifuse.detection.boxes import inside_boxes as inside_boxes
    from equifuse.detection.camera import Calibration as Calibration
    from equifuse.detection.precision import Detections as Detections
    from equifuse.detection.precision import mean_average_precision as mean_average_precision
    from equifuse.detection.precision import suppress as suppress
    from equifuse.detection.sampling import farthest_points as farthest_points
    from equifuse.detection.votes import Boxes2D as Boxes2D
    from equifuse.detection.votes import image_votes as image_votes
    from equifuse.detection.votes import point_votes as point_votes

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "equifuse.detection.boxes": ["box_corners", "box_iou", "inside_boxes"],
        "equifuse.detection.camera": ["Calibration"],
        "equifuse.detection.precision": ["Detections", "mean_average_precision", "suppress"],
        "equifuse.detection.sampling": ["farthest_points"],
        "equifuse.detection.votes": ["Boxes2D", "image_votes", "point_votes"],
    },
)
