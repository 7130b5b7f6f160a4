"""Public sets of rooms in 3D, and of clips."""

from __future__ import annotations

from equifuse.data.public.base import PublicFile, PublicSet
from equifuse.registry import PUBLIC_SETS

_SUNRGBD = (
    "https://rgbd.cs.princeton.edu (SUNRGBD.zip, SUNRGBDtoolbox.zip, SUNRGBDMeta2DBB_v2.mat, SUNRGBDMeta3DBB_v2.mat)"
)
_VOTENET = "prepared by the scripts of https://github.com/facebookresearch/votenet (folder sunrgbd, MATLAB) from those"

SUN_RGBD = PUBLIC_SETS.register(
    PublicSet(
        "sun-rgbd",
        "SUN RGB-D: oriented boxes of ten classes in 10,335 rooms, from points and image (Song et al. 2015)",
        "none stated; the toolbox asks to cite the set and those it is made of",
        (
            PublicFile("sunrgbd_trainval/{calib,label_v1,image}, train_data_idx.txt, val_data_idx.txt", _SUNRGBD),
            PublicFile("sunrgbd_pc_bbox_votes_50k_v1_{train,val}/: 000001_pc.npz, 000001_bbox.npy, ...", _VOTENET),
            PublicFile(
                "sunrgbd_2d_bbox_50k_v1_{train,val}/: boxes in the images, by a detector",
                "https://github.com/facebookresearch/imvotenet (its README links them)",
                optional=True,
            ),
        ),
        layout="all folders in one folder 'sun-rgbd'; or sunrgbd_trainval alone, with depth/000001.mat",
        options="--format votenet",
        notes=(
            "the official part val, 5,050 rooms, is what is tested on; validation is held out from train",
            "without a detector's 2D boxes those that people drew are taken: a figure with them must say so",
            "published mAP@0.25: VoteNet 57 to 58, ImVoteNet 63; nothing was measured here",
        ),
    )
)

VGGSOUND = PUBLIC_SETS.register(
    PublicSet(
        "vggsound",
        "VGGSound: 309 sounds in 199,176 clips of 10 s from YouTube (Chen et al. 2020)",
        "annotations CC BY 4.0; the films belong to their owners",
        (
            PublicFile("vggsound.csv", "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"),
            PublicFile("the films, <id>_<second, six digits>.mp4", "YouTube, by the ids and seconds of vggsound.csv"),
        ),
        layout="the films, at any depth, and vggsound.csv in one folder 'vggsound'; films that are gone are left out",
        options="--split vggsound/vggsound.csv",
        notes=(
            "some films have been taken down: say how many a figure is of; the reader counts them",
            "published, sound alone: mAP 0.516, AUC 0.968 (the set's ResNet-18); nothing was measured here",
        ),
    )
)

ACTIVITYNET = PUBLIC_SETS.register(
    PublicSet(
        "activitynet",
        "ActivityNet: 200 activities in segments of 19,994 films (Caba Heilbron et al. 2015)",
        "none stated; the films belong to their owners",
        (
            PublicFile("activity_net.v1-3.min.json", "http://activity-net.org/download.html"),
            PublicFile("the films, v_<id>.mp4", "YouTube, or on request at http://activity-net.org/download.html"),
            PublicFile(
                "captions: train.json, val_1.json, for retrieval",
                "https://cs.stanford.edu/people/ranjaykrishna/densevid/",
                optional=True,
            ),
        ),
        layout="the films, at any depth, and the JSON in one folder 'activitynet'",
        options="--split activitynet/activity_net.v1-3.min.json",
        notes=("labels of its test part are not public: validation is tested on, and a part of train validates",),
    )
)

FAKEAVCELEB = PUBLIC_SETS.register(
    PublicSet(
        "fakeavceleb",
        "FakeAVCeleb: 500 real and 19,500 forged films of talking people, in sight or sound (Khalid et al. 2021)",
        "on request, for research; see the form of the repository",
        (PublicFile("meta_data.csv, and the films in folders by type", "https://github.com/DASH-Lab/FakeAVCeleb"),),
        layout="meta_data.csv in the folder 'fakeavceleb', the films below it as they are",
        options="--split fakeavceleb/meta_data.csv",
        notes=(
            "there is no official split: parts are drawn so that no person is in two of them",
            "39 of 40 films are forged in some way: accuracy alone says little, read AUC",
        ),
    )
)
