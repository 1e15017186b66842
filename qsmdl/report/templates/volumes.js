"use strict";
// The embedded volumes: NIfTI-1 files (int16 or uint8, little-endian), gzip, base64.
window.qsmdl = window.qsmdl || {};
(function (qsmdl) {
  const HEADER_BYTES = 352;
  const LARGEST = 32767;

  async function decode(id) {
    const text = document.getElementById(id).textContent;
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return parse(await new Response(stream).arrayBuffer());
  }

  // {buffer: the file, values: its voxels with x fastest, step: ppm per level}
  function parse(buffer) {
    const header = new DataView(buffer, 0, HEADER_BYTES);
    const size = [42, 44, 46].map((offset) => header.getInt16(offset, true));
    const isMap = header.getInt16(70, true) === 4;
    const n = size[0] * size[1] * size[2];
    const values = isMap ? new Int16Array(buffer, HEADER_BYTES, n) : new Uint8Array(buffer, HEADER_BYTES, n);
    return { buffer, values, size, step: isMap ? header.getFloat32(112, true) : 1 };
  }

  function mean(volume, mask) {
    let sum = 0, n = 0;
    for (let i = 0; i < mask.values.length; i++) if (mask.values[i]) { sum += volume.values[i]; n++; }
    return (sum / n) * volume.step;
  }

  // Map minus truth, each minus its mean in the mask, as another file with the map's header.
  function difference(map, truth, mask) {
    const offset = mean(map, mask) - mean(truth, mask);
    const result = parse(map.buffer.slice(0));
    result.step = Math.max(map.step, truth.step);
    new DataView(result.buffer).setFloat32(112, result.step, true);
    for (let i = 0; i < mask.values.length; i++) {
      const level = mask.values[i] ? Math.round((map.values[i] * map.step - truth.values[i] * truth.step - offset) / result.step) : 0;
      result.values[i] = Math.max(-LARGEST, Math.min(LARGEST, level));
    }
    return result;
  }

  // The value in ppm at a voxel [i, j, k] of the file, or null outside.
  function valueAt(volume, voxel) {
    const [i, j, k] = voxel, [nx, ny, nz] = volume.size;
    if (i < 0 || j < 0 || k < 0 || i >= nx || j >= ny || k >= nz) return null;
    return volume.values[i + nx * (j + ny * k)] * volume.step;
  }

  qsmdl.volumes = { decode, difference, valueAt };
})(window.qsmdl);
