"""Clips: what is decoded, spectrograms as published works set them, and the files that say what each clip is."""

import json

import numpy as np
import pytest
from scipy import signal

import equifuse as ef
from equifuse.data.contents import Frames, Spectrograms
from equifuse.data.formats import is_one_set
from equifuse.data.formats.clip_tables import read_clip_table
from equifuse.data.formats.clips import _files_of
from equifuse.data.media import SOUNDS, Window, frame_numbers, read_frames, read_sound
from equifuse.runs import TrainConfig, evaluate_run, predict_run, train

av = pytest.importorskip("av")

RATE, PER_SECOND = 16_000, 10


def write_clip(path, seconds=1.0, *, frames=True, sound=True, shade=None, tone=440):
    """A made clip: frames whose grey is 10 times their number, and a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=PER_SECOND) if frames else None
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono") if sound else None
        if video is not None:
            video.width, video.height, video.pix_fmt, video.bit_rate = 64, 32, "yuv420p", 4_000_000
            for i in range(round(seconds * PER_SECOND)):
                grey = np.full((32, 64, 3), 10 * i if shade is None else shade, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(video.encode(None))
        if audio is not None:
            wave = np.sin(2 * np.pi * tone * np.arange(round(seconds * RATE)) / RATE) / 2
            frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.rate = RATE
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.avi", 2.0)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFUSE_CACHE", str(tmp_path / "cache"))


def greys(frames):
    return np.round(frames.mean((1, 2, 3)) / 10).astype(int).tolist()


def test_frames_are_those_that_were_asked_for(clip):
    assert read_frames(clip, 4, 16).shape == (4, 3, 16, 16)
    assert greys(read_frames(clip, 4, 16)) == frame_numbers(20, 4).tolist() == [2, 7, 12, 17]
    assert greys(read_frames(clip, 3, 16, stride=2)) == [0, 2, 4]
    assert greys(read_frames(clip, 3, 16, stride=9)) == [0, 9, 18]
    assert greys(read_frames(clip, 3, 16, stride=15)) == [0, 15, 19]
    assert greys(read_frames(clip, 2, 16, window=Window(0.5, 1.5))) == [7, 12]
    assert greys(read_frames(clip, 1, 16, window=Window(9, 10))) == [19]


def test_sound_is_that_of_the_file_at_any_rate(clip):
    wave = read_sound(clip, RATE)
    expected = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE) / 2
    np.testing.assert_allclose(wave, expected, atol=1e-3)
    np.testing.assert_array_equal(read_sound(clip, RATE, Window(0.5, 1.0)), wave[RATE // 2 : RATE])
    slow = read_sound(clip, 8_000)
    assert len(slow) == 16_000
    np.testing.assert_allclose(slow[500:-500], expected[::2][500:-500], atol=0.02)


def test_a_stream_that_is_not_there_or_broken_is_absent(clip, tmp_path):
    assert read_frames(write_clip(tmp_path / "a.wav", frames=False), 2, 16) is None
    assert read_sound(write_clip(tmp_path / "b.avi", sound=False), RATE) is None
    (tmp_path / "c.mp4").write_bytes(b"no film")
    assert read_frames(tmp_path / "c.mp4", 2, 16) is None
    assert read_sound(tmp_path / "c.mp4", RATE) is None
    whole = clip.read_bytes()
    (tmp_path / "d.avi").write_bytes(whole[: len(whole) // 2])  # what is there counts
    assert read_frames(tmp_path / "d.avi", 4, 16).shape == (4, 3, 16, 16)
    assert 0 < len(read_sound(tmp_path / "d.avi", RATE)) < 2 * RATE


def test_spectrograms_are_as_their_makers_set_them():
    wave = np.random.default_rng(0).uniform(-1.2, 1.2, 3 * RATE).astype(np.float32)
    tiled = np.tile(wave, 4)[:160_000].clip(-1, 1)
    _, _, power = signal.spectrogram(tiled, RATE, nperseg=512, noverlap=353)
    log = np.log(power + 1e-7)
    np.testing.assert_allclose(SOUNDS["vggsound"].of(wave), (log - log.mean()) / log.std(), atol=1e-4)
    for name, window, hop, length in (("ogm", 256, 128, 80_000), ("cremad", 512, 353, 66_150)):
        sound = np.tile(wave, 4)[:length].astype(np.float64)
        _, _, spectrum = signal.stft(
            sound, window="hann", nperseg=window, noverlap=window - hop, padded=False, scaling="spectrum"
        )
        expected = np.log(abs(spectrum) * signal.get_window("hann", window).sum() + 1e-7)
        found = SOUNDS[name].of(wave)
        assert found.shape == SOUNDS[name].shape
        np.testing.assert_allclose(found[:, :-2], expected[:, : found.shape[1] - 2], atol=1e-4)
    for sound in SOUNDS.values():
        assert sound.of(wave).shape == sound.shape
        assert np.isfinite(sound.of(np.zeros(5, np.float32))).all()
    tone = np.sin(2 * np.pi * 1000 * np.arange(8 * RATE) / RATE).astype(np.float32)
    loudest = int(SOUNDS["mel"].of(tone).mean(1).argmax())
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 130) / 2595) - 1)
    assert edges[loudest] < 1000 < edges[loudest + 2]


def test_the_files_of_public_sets_are_told_apart(tmp_path):
    path = tmp_path / "vggsound.csv"
    path.write_text('---g-f_I2yQ,1,"people marching",test\n--0PQM4-hqg,30,waterfall burbling,train\n')
    table = read_clip_table(path)
    assert [(c.name, c.label, c.part) for c in table.clips] == [
        ("---g-f_I2yQ_000001", "people marching", "test"),
        ("--0PQM4-hqg_000030", "waterfall burbling", "train"),
    ]
    path.write_text("a.mp4,dog\nb.mp4,cat\n")
    assert [(c.name, c.label, c.part) for c in read_clip_table(path).clips] == [
        ("a.mp4", "dog", None),
        ("b.mp4", "cat", None),
    ]
    path.write_text("file,label,split,start,end\na.mp4,dog,val,1,2.5\n")
    (one,) = read_clip_table(path).clips
    assert (one.part, one.window) == ("val", Window(1.0, 2.5))
    path.write_text(
        "source,target1,target2,method,category,type,race,gender,path,\n"
        "id1,-,-,real,A,RealVideo-RealAudio,African,men,00109.mp4,FakeAVCeleb/RealVideo-RealAudio/African/men/id1\n"
        "id1,id2,-,w,D,FakeVideo-RealAudio,African,men,00109_1.mp4,FakeAVCeleb/FakeVideo-RealAudio/African/men/id1\n"
    )
    assert [c.label for c in read_clip_table(path).clips] == ["real", "fake"]
    each = read_clip_table(path, "each")
    assert (each.task, each.names, [c.label for c in each.clips]) == (
        "multilabel", ("fake video", "fake audio"), [(0, 0), (1, 0)],
    )  # fmt: skip
    assert each.clips[0].name == "FakeAVCeleb/RealVideo-RealAudio/African/men/id1/00109.mp4"
    assert each.clips[0].group == "id1"


def test_activitynet_is_read_as_segments_or_sentences(tmp_path):
    path = tmp_path / "annotations.json"
    said = {"database": {"x": {"subset": "training", "annotations": [{"segment": [0.5, 2], "label": "Surfing"}]}}}
    path.write_text(json.dumps(said))
    (one,) = read_clip_table(path).clips
    assert (one.name, one.label, one.part, one.window) == ("x", "Surfing", "train", Window(0.5, 2.0))
    path.write_text(
        json.dumps({"v_x": {"duration_second": 3, "annotations": [{"segment": [0, 2], "label": "Surfing"}]}})
    )
    assert read_clip_table(path).clips[0].part is None
    path.write_text(
        json.dumps({"v_x": {"duration": 3, "timestamps": [[0, 1], [1, 3]], "sentences": ["A man.", " He runs."]}})
    )
    table = read_clip_table(path)
    assert (table.task, [c.text for c in table.clips]) == ("retrieval", ["A man.", "He runs."])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "one\n", "is no table of clips"),
        ("a.csv", "x,1,dog,train\ny,two,dog,train\n", "row 2 says 'two', 'train'"),
        ("a.csv", "x,1,dog,train\ny,1,,train\n", "row 2 has 4 cells, or empty ones"),
        ("a.csv", "file,label,split\na,b,c\n", "row 2 says split 'c'"),
        ("a.csv", "file,label,start\na,b,x\n", "row 2 has the time 'x'"),
        ("a.csv", "file,label,start,end\na,b,3,2\n", "segment from 3.0 to 2.0"),
        ("a.csv", "type,path\nRealVideo-RealAudio,a.mp4\nOther,b.mp4\n", "row 3 has type 'Other'"),
        ("a.json", "{", "a.json"),
        ("a.json", "[]", "no videos by name"),
        ("a.json", '{"x": {"annotations": [{"label": "a"}]}}', "video 'x' has no segments"),
        ("a.json", '{"x": {"annotations": []}}', "has no segment"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ef.DataError, match=said):
        read_clip_table(tmp_path / name)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clips"
    (path / "deep").mkdir(parents=True)
    rows = []
    for i in range(12):
        loud = i % 2
        made, shade, tone = path / "deep" / f"v{i}_000003.avi", 40 + 120 * loud, 300 + 900 * loud
        write_clip(made, 0.3, sound=i != 4, frames=i != 5, shade=shade, tone=tone)
        rows.append(f"v{i},3,{('low', 'high')[loud]},{'test' if i > 7 else 'train'}")
    (path / "deep" / "bad_000001.mp4").write_bytes(b"x" * 100)
    rows += ["bad,1,low,train", "gone,7,low,train"]
    (tmp_path / "vggsound.csv").write_text("\n".join(rows) + "\n")
    return path


def source(folder, **options):
    return {"annotations": str(folder.parent / "vggsound.csv"), "format_options": {"size": 32, "frames": 2, **options}}


def test_a_folder_of_clips_is_a_data_set_that_is_decoded_once(folder, capsys):
    data = ef.datasets.load(folder, source=source(folder, sound="ogm", workers=2))
    assert "clips: 13 of 13 read" in capsys.readouterr().err
    assert data.task == "classification"
    assert data.classes == ("high", "low")
    assert data.shapes == {"video": (2, 3, 32, 32), "audio": (129, 626)}
    assert data.contents == {"video": Frames(32), "audio": Spectrograms("ogm")}
    assert [len(split) for split in data.splits.values()] == [6, 2, 4]
    lacking = {m: sum(int((~s.present[m]).sum()) for s in data.splits.values()) for m in data.modalities}
    assert lacking == {"video": 1, "audio": 1}
    facts = str(data.sources[0])
    assert "1 not in the folder, such as gone_000007" in facts
    assert "1 that cannot be decoded" in facts
    again = ef.datasets.load(folder, source=source(folder, sound="ogm"))
    assert again.fingerprint() == data.fingerprint()
    assert "read" not in capsys.readouterr().err
    alone = ef.datasets.load(folder, source=source(folder, streams="video"))
    assert alone.modalities == ("video",)


def test_options_that_do_not_fit_are_one_line(folder, tmp_path):
    for options, said in (
        ({"frames": 0}, "frames must be a whole number of at least 1"),
        ({"stride": 0}, "stride must be a whole number"),
        ({"streams": "smell"}, "streams must be one of both"),
        ({"sound": "loud"}, "unknown spectrogram 'loud'"),
    ):
        with pytest.raises(ef.EquifuseError, match=said):
            ef.datasets.load(folder, source=source(folder, **options))
    with pytest.raises(ef.InputError, match="name it: --split vggsound.csv"):
        ef.datasets.load(folder)
    (tmp_path / "vggsound.csv").write_text("q,1,dog,train\n")
    with pytest.raises(ef.DataError, match="has none of the 1 clips"):
        ef.datasets.load(folder, source=source(folder))


def test_a_missing_file_is_not_another_clip_of_that_name(tmp_path):
    for kind in ("RealVideo-RealAudio", "FakeVideo-FakeAudio"):
        (tmp_path / "set" / kind / "id1").mkdir(parents=True)
        write_clip(tmp_path / "set" / kind / "id1/1.avi", 0.2)
    rows = [f"FakeAVCeleb/{kind}/id1/1.avi,{kind[:4]}" for kind in ("RealVideo-RealAudio", "FakeVideo-FakeAudio")]
    table = tmp_path / "t.csv"
    table.write_text("\n".join([*rows, "FakeAVCeleb/FakeVideo-RealAudio/id1/1.avi,Fake"]) + "\n")
    found = _files_of(tmp_path / "set", read_clip_table(table))
    assert [None if file is None else file.parts[-3] for file in found] == [
        "RealVideo-RealAudio", "FakeVideo-FakeAudio", None,
    ]  # fmt: skip


@pytest.mark.slow
def test_clips_are_told_apart_by_what_is_seen_and_heard(folder, tmp_path):
    config = TrainConfig(
        str(folder), source=source(folder, sound="ogm"), fusion="gmf", hidden=(16,), epochs=30, batch_size=3,
        modality_dropout=0.0, unimodal="none", dropout=0.0, lr=3e-3,
    )  # fmt: skip
    result = train(config, tmp_path / "run", progress=False)
    assert result.metrics.test["accuracy"] == 1
    assert evaluate_run(tmp_path / "run", without=["video"])["accuracy"] > 0.5
    new = tmp_path / "new"
    new.mkdir()
    for i, name in enumerate(("a.avi", "b.avi")):
        write_clip(new / name, 0.3, shade=40 + 120 * i, tone=300 + 900 * i)
    for given, said in ((new, ["low", "high"]), (new / "b.avi", ["high"])):
        assert is_one_set(given)
        found = predict_run(tmp_path / "run", given, tmp_path / f"{given.stem}.csv")
        assert found["prediction"].tolist() == said


@pytest.mark.data
def test_real_clips_have_their_frames_and_their_sound(data_root):
    root = data_root / "av_samples"
    if not root.is_dir():
        pytest.skip("needs the real clips: set EQUIFUSE_DATA")
    for path in sorted((root / "grid").glob("*.mpg"))[:3]:  # people who speak: 75 frames, 3 seconds
        frames, wave = read_frames(path, 5, 64), read_sound(path, RATE)
        assert frames.shape == (5, 3, 64, 64)
        assert len({frame.tobytes() for frame in frames}) == 5
        assert len(wave) / RATE == pytest.approx(2.98, abs=0.02)
        assert wave.std() > 0.01
    both, alone = root / "mmaction2/test.avi", root / "mmaction2/test.wav"
    np.testing.assert_allclose(read_sound(both, RATE), read_sound(alone, RATE), atol=2e-3)
    assert read_sound(root / "mmaction2/demo.mp4", RATE) is None
    assert read_frames(alone, 2, 64) is None
    assert len(read_sound(root / "vggsound_FwVYUHKoLtQ_000034.wav", RATE)) / RATE == pytest.approx(10, abs=0.01)
