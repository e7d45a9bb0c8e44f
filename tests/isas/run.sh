#!/usr/bin/env bash
# Runs `isas` on an emulated processor with AVX-512, for machines whose own has none: boots Linux in Bochs with isas as its only program.
# Needs Debian's bochs, bochsbios, vgabios, grub-pc-bin, grub-common, xorriso, mtools, cpio and a kernel package's vmlinuz. About three minutes.
#
#   tests/isas/run.sh build/cmake-cpython-311/isas /boot/vmlinuz-6.1.0-50-cloud-amd64
set -euo pipefail
isas=$(realpath "$1") vmlinuz=$(realpath "$2")
work=$(mktemp -d)
trap 'kill "$bochs" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

mkdir -p root/dev iso/boot/grub
cp "$isas" root/init
mknod root/dev/console c 5 1
(cd root && find . | cpio -o -H newc 2>/dev/null | gzip -1) > iso/boot/initrd.gz
cp "$vmlinuz" iso/boot/vmlinuz
# Without xsavec and xsaves: Linux finds Bochs's size of that state inconsistent and would switch all vector registers off.
cat > iso/boot/grub/grub.cfg <<'GRUB'
set timeout=0
menuentry isas {
  linux /boot/vmlinuz console=ttyS0 nokaslr mitigations=off tsc=reliable noxsaves clearcpuid=xsavec,xsaves rdinit=/init
  initrd /boot/initrd.gz
}
GRUB
grub-mkrescue -o isas.iso iso > grub.log 2>&1

cat > bochsrc <<'BOCHS'
megs: 512
cpu: model=corei7_skylake_x, count=1, ips=100000000
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path=isas.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
display_library: rfb, options="timeout=0"
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
speaker: enabled=0
log: /dev/null
clock: sync=none
panic: action=fatal
BOCHS
echo c | bochs -q -f bochsrc > bochs.out 2>&1 &
bochs=$!
for _ in $(seq 1200); do
  sleep 1
  grep -aqE 'cases: (ok|FAILED)|Kernel panic' serial.txt 2>/dev/null && break
  kill -0 "$bochs" 2>/dev/null || break
done
sed -n '/instruction sets/,$p' serial.txt
grep -aq 'cases: ok' serial.txt
