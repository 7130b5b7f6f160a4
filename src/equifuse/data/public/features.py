"""Public sets of ready features: BRCA, MM-IMDB, CMU-MOSI and CMU-MOSEI."""

from __future__ import annotations

from equifuse.data.public.base import PublicFile, PublicSet
from equifuse.registry import PUBLIC_SETS

_MOGONET = "https://github.com/txWang/MOGONET (folder BRCA)"
_MMSA = "https://github.com/thuiar/MMSA (its README links the processed features)"
_PICKLE = "a pickle is never read in training: 'equifuse datasets convert {0} {1}' makes plain data of it once"

BRCA = PUBLIC_SETS.register(
    PublicSet(
        "brca",
        "BRCA: five PAM50 subtypes from mRNA, methylation and miRNA (MOGONET, Wang et al. 2021; data of TCGA)",
        "none stated by the repository; TCGA's open-access data",
        (
            PublicFile("1_tr.csv, 2_tr.csv, 3_tr.csv, labels_tr.csv", _MOGONET),
            PublicFile("1_te.csv, 2_te.csv, 3_te.csv, labels_te.csv", _MOGONET),
            PublicFile("1_featname.csv, 2_featname.csv, 3_featname.csv", _MOGONET, optional=True),
        ),
        layout="the files as they are, in one folder 'brca'; 612 rows of training and 263 of test",
        notes=(
            "42 of the 263 test rows have a twin in the training part, some with another label: no model gets them all",
            "the published runs had no validation part and took the best epoch on test; --protocol loose does so",
        ),
    )
)

MMIMDB = PUBLIC_SETS.register(
    PublicSet(
        "mmimdb",
        "MM-IMDB: 23 genres of 25,959 films from plot and poster (Arevalo et al. 2017)",
        "none stated; posters and plots belong to their owners",
        (PublicFile("multimodal_imdb.hdf5", "http://lisi1.unal.edu.co/mmimdb/ or https://archive.org/details/mmimdb"),),
        layout="the file in a folder 'mmimdb'; features of text (word2vec, 300) and poster (VGG, 4096) are in it",
        data="mmimdb/multimodal_imdb.hdf5",
    )
)

MOSI = PUBLIC_SETS.register(
    PublicSet(
        "cmu-mosi",
        "CMU-MOSI: sentiment from -3 to 3 of 2,199 opinion clips, from words, voice and face (Zadeh et al. 2016)",
        "academic use, as the CMU Multimodal SDK says",
        (PublicFile("aligned_50.pkl or unaligned_50.pkl (folder MOSI)", _MMSA),),
        layout="the converted file cmu-mosi/mosi.hdf5",
        data="cmu-mosi/mosi.hdf5",
        notes=(_PICKLE.format("aligned_50.pkl", "mosi.hdf5"),),
    )
)

MOSEI = PUBLIC_SETS.register(
    PublicSet(
        "cmu-mosei",
        "CMU-MOSEI: sentiment of 22,856 clips, from words, voice and face (Zadeh et al. 2018)",
        "academic use, as the CMU Multimodal SDK says",
        (PublicFile("aligned_50.pkl or unaligned_50.pkl (folder MOSEI)", _MMSA),),
        layout="the converted file cmu-mosei/mosei.hdf5",
        data="cmu-mosei/mosei.hdf5",
        notes=(_PICKLE.format("aligned_50.pkl", "mosei.hdf5"),),
    )
)
