import subprocess
import sys


def test_importing_qwen_tts_prints_nothing():
    program = (
        "from serve_app.model.upstream import import_qwen_tts\n"
        "assert import_qwen_tts() is import_qwen_tts()\n"
        "assert 'sox' not in __import__('sys').modules or __import__('shutil').which('sox')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
