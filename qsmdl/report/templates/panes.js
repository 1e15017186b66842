"use strict";
// One pane: a canvas with its own NiiVue, showing one map or one difference, optionally with the labels above it.
window.qsmdl = window.qsmdl || {};
(function (qsmdl) {
  const GREY = "gray", ERROR = "qsmdl_error", LABEL_OPACITY = 0.3;
  const PALETTE = [
    [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167], [205, 205, 205],
    [120, 94, 240], [60, 90, 110], [220, 38, 127], [255, 176, 0], [150, 110, 70], [110, 110, 110], [120, 60, 30], [255, 255, 255],
  ];

  function errorColours(stops) {
    const table = { R: [], G: [], B: [], A: [], I: [] };
    for (const [position, r, g, b] of stops) {
      table.R.push(r); table.G.push(g); table.B.push(b); table.A.push(255); table.I.push(Math.round(255 * position));
    }
    return table;
  }

  function labelColours(names) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    for (const [number, name] of Object.entries(names)) {
      const [r, g, b] = PALETTE[(Number(number) - 1) % PALETTE.length];
      table.R.push(r); table.G.push(g); table.B.push(b); table.A.push(255); table.I.push(Number(number)); table.labels.push(name);
    }
    return table;
  }

  class Pane {
    constructor(title, isDifference) {
      this.isDifference = isDifference;
      this.figure = document.createElement("figure");
      this.figure.className = isDifference ? "pane difference" : "pane";
      const view = document.createElement("div");
      view.className = "view";
      this.canvas = document.createElement("canvas");
      this.canvas.tabIndex = 0;
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", title);
      this.canvas.dataset.title = title;
      const caption = document.createElement("figcaption");
      const words = document.createElement("span");
      words.textContent = isDifference ? "difference" : "map";
      this.readout = document.createElement("output");
      caption.append(words, this.readout);
      view.append(this.canvas);
      this.figure.append(view, caption);
    }

    async open(data, onMove) {
      this.nv = new niivue.Niivue({
        backColor: this.isDifference ? [0, 0, 0, 1] : [0.5, 0.5, 0.5, 1],
        crosshairColor: [1, 0.8, 0, 0.8], crosshairWidthUnit: "percent", show3Dcrosshair: false, isColorbar: false, isNearestInterpolation: true,
        isRadiologicalConvention: true, sagittalNoseLeft: true, isOrientationTextVisible: true, fontColor: [1, 1, 1, 1], multiplanarShowRender: 0,
        isForceMouseClickToVoxelCenters: true, dragAndDropEnabled: false, scrollRequiresFocus: true, isResizeCanvas: true, loadingText: "", logLevel: "error",
        clipPlaneHotKey: "", viewModeHotKey: "", cycleClipPlaneHotKey: "", dragMode: niivue.DRAG_MODE.pan, atlasOutline: 1, isAlphaClipDark: false,
      });
      await this.nv.attachToCanvas(this.canvas, false);
      this.nv.addColormap(ERROR, errorColours(data.error_colours));
      this.nv.onLocationChange = () => onMove(this);
    }

    async show(volume, window_ppm) {
      this.volume = volume;
      for (const old of [...this.nv.volumes]) this.nv.removeVolume(old);
      const image = await niivue.NVImage.loadFromUrl({
        url: volume.buffer.slice(0), name: "volume.nii", colormap: this.isDifference ? ERROR : GREY, cal_min: -window_ppm, cal_max: window_ppm, ignoreZeroVoxels: false,
      });
      this.nv.addVolume(image);
    }

    setWindow(window_ppm) {
      const image = this.nv.volumes[0];
      [image.cal_min, image.cal_max] = [-window_ppm, window_ppm];
      this.nv.updateGLVolume();
    }

    async setLabels(labels, names) {
      if (labels && this.nv.volumes.length < 2) {
        const image = await niivue.NVImage.loadFromUrl({ url: labels.buffer.slice(0), name: "labels.nii", opacity: LABEL_OPACITY });
        image.setColormapLabel(labelColours(names));
        this.nv.addVolume(image);
      } else if (!labels && this.nv.volumes.length > 1) {
        this.nv.removeVolume(this.nv.volumes[1]);
      }
    }

    setView(name) {
      const types = { axial: 0, coronal: 1, sagittal: 2, all: 3 };
      this.nv.setMultiplanarLayout(niivue.MULTIPLANAR_TYPE.GRID);
      this.nv.setSliceType(types[name]);
      this.nv.setCrosshairWidth(name === "all" ? 1.2 : 0.6); // of the volume's width: at least a pixel, or the lines come and go
    }

    moveTo(position) {
      this.nv.scene.crosshairPos = [...position];
      this.nv.drawScene();
    }

    say(voxel) {
      const value = qsmdl.volumes.valueAt(this.volume, voxel);
      this.readout.textContent = value === null ? "outside" : `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(4)} ppm`;
    }

    close() {
      this.nv.cleanup();
      const loss = this.nv.gl.getExtension("WEBGL_lose_context"); // browsers allow about sixteen contexts
      if (loss) loss.loseContext();
      this.figure.remove();
    }
  }

  qsmdl.Pane = Pane;
  qsmdl.labelColours = labelColours;
})(window.qsmdl);
