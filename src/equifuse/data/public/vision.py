"""Public sets of questions about images."""

from __future__ import annotations

from equifuse.data.public.base import PublicFile, PublicSet
from equifuse.registry import PUBLIC_SETS

_FILES = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_PAGE = "linked at https://visualqa.org/download.html"

VQA = PUBLIC_SETS.register(
    PublicSet(
        "vqa-v2",
        "VQA v2: 658,111 questions about 123,287 images of COCO with ten answers each (Goyal et al. 2017)",
        "annotations CC BY 4.0; images by the terms of Flickr",
        (
            PublicFile(
                "v2_OpenEnded_mscoco_{train2014,val2014,test2015}_questions.json",
                f"{_FILES}/v2_Questions_{{Train,Val,Test}}_mscoco.zip, {_PAGE}",
            ),
            PublicFile(
                "v2_mscoco_{train2014,val2014}_annotations.json",
                f"{_FILES}/v2_Annotations_{{Train,Val}}_mscoco.zip, {_PAGE}",
            ),
            PublicFile(
                "features of regions: HDF5 with a JSON of ids, TSV, or a folder of .npz",
                "https://github.com/peteanderson80/bottom-up-attention (36 regions), or the links of "
                "https://github.com/MILVLG/openvqa or https://github.com/airsplay/lxmert",
                size="25 GB or more",
            ),
            PublicFile(
                "train2014/, val2014/, test2015/: the pictures, instead of features",
                "http://images.cocodataset.org/zips/{train2014,val2014,test2015}.zip",
                size="13 GB, 6 GB, 12 GB",
                optional=True,
            ),
        ),
        layout="everything in one folder 'vqa-v2'; 443,757 questions of train and 214,354 of val",
        options="--format vqa",
        notes=(
            "figures are of val after training on train, as in published work; test has no public answers: submit them",
            "published train -> val: BUTD 63.84, MCAN-small 67.17 (openvqa); nothing was measured here",
        ),
    )
)
