/** Painter on the graphics card. Values and colors are textures: another gene is one upload of a byte for each place. */

import earcut from "earcut";
import { NONE } from "./data.js";
import { outlineWidth } from "./paint2d.js";

const HEAD = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D;
`;
const PLACE = `
uniform vec4 camera; uniform sampler2D levels; uniform sampler2D colors; uniform sampler2D marks;
uniform float opacity; uniform int width;
ivec2 texel(int id) { return ivec2(id % width, id / width); }
float level(int id) { return texelFetch(levels, texel(id), 0).r * 255.0; }
bool marked(int id) { return texelFetch(marks, texel(id), 0).r > 0.0; }
vec4 fill(float value) { return vec4(texelFetch(colors, ivec2(int(value + 0.5), 0), 0).rgb, 1.0) * opacity; }
vec4 onScreen(vec2 xy) { return vec4((xy - camera.xy) * camera.zw + vec2(-1.0, 1.0), 0.0, 1.0); }
const vec4 outside = vec4(2.0, 2.0, 2.0, 1.0);
`;
const DISC = {
  vertex: `${HEAD}${PLACE}
in vec2 xy; uniform float radius; uniform float line; uniform vec3 lineColor; uniform int doubts;
out vec2 at; flat out vec4 color;
void main() {
  float value = level(gl_InstanceID);
  at = (vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0) * 1.1;
  color = line > 0.0 ? vec4(lineColor, 1.0) : fill(value);
  gl_Position = value > 254.5 || marked(gl_InstanceID) != (doubts == 1) ? outside : onScreen(xy + at * (radius + line));
}`,
  fragment: `${HEAD}
in vec2 at; flat in vec4 color; out vec4 result;
void main() {
  float far = length(at);
  float cover = clamp((1.0 - far) / fwidth(far) + 0.5, 0.0, 1.0);
  if (cover <= 0.0) discard;
  result = color * cover;
}`,
};
/** Places below this diameter in pixels are drawn as discs, a pixel larger: no line or tissue is in the gaps between them. */
const SMALL = 6;
const MESH = {
  vertex: `${HEAD}${PLACE}
in vec2 xy; in float owner; uniform int doubts; flat out vec4 color;
void main() {
  int id = int(owner);
  float value = level(id);
  color = fill(value);
  gl_Position = value > 254.5 || marked(id) != (doubts == 1) ? outside : onScreen(xy);
}`,
  fragment: `${HEAD} flat in vec4 color; out vec4 result; void main() { result = color; }`,
};
const EDGE = {
  vertex: `${HEAD}${PLACE}
in vec2 from; in vec2 to; in float owner; uniform float line;
void main() {
  int id = int(owner);
  vec2 along = normalize(to - from + vec2(1e-6, 0.0)), across = vec2(-along.y, along.x);
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  vec2 xy = (corner.x < 0.0 ? from : to) + (along * corner.x + across * corner.y) * line;
  gl_Position = level(id) > 254.5 || !marked(id) ? outside : onScreen(xy);
}`,
  fragment: `${HEAD} uniform vec3 lineColor; out vec4 result; void main() { result = vec4(lineColor, 1.0); }`,
};
const WIDTH = 2048;

/** Whether WebGL runs without a graphics card: browsers do not always say so by failIfMajorPerformanceCaveat. */
function isSoftware() {
  // On a canvas of its own: the canvas of a painter keeps its first context.
  const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  if (!gl) return true;
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
}

export class PainterGL {
  /** Returns a painter, or null without a graphics card: software would be slower than the other painter. */
  static create(canvas, places, { software = false } = {}) {
    const options = { antialias: true, premultipliedAlpha: true, failIfMajorPerformanceCaveat: !software };
    if (!software && isSoftware()) return null;
    const gl = canvas.getContext("webgl2", options);
    return gl && new PainterGL(canvas, places, gl);
  }

  constructor(canvas, places, gl) {
    Object.assign(this, { name: "webgl", canvas, places, gl });
    this.disc = this.#program(DISC);
    this.discs = this.#arrays(this.disc, { xy: [places.xy, 2, 1] });
    this.textures = Object.fromEntries(["levels", "colors", "marks"].map((key) => [key, this.#texture()]));
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  #program({ vertex, fragment }) {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    const uniforms = {};
    for (let k = 0; k < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); k++) {
      const { name } = gl.getActiveUniform(program, k);
      uniforms[name] = gl.getUniformLocation(program, name);
    }
    return { program, uniforms };
  }

  /** @param attributes by name: values, values for each vertex, and 1 if there is one vertex for each instance */
  #arrays({ program }, attributes) {
    const { gl } = this;
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    for (const [name, [values, size, divisor, offset = 0, stride = 0]] of Object.entries(attributes)) {
      const place = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, gl.FLOAT, false, stride, offset);
      gl.vertexAttribDivisor(place, divisor);
    }
    return array;
  }

  #texture() {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    return texture;
  }

  #upload(texture, values) {
    const { gl } = this;
    const height = Math.max(1, Math.ceil(this.places.n / WIDTH));
    const padded = new Uint8Array(WIDTH * height);
    if (values) padded.set(values);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8, WIDTH, height, 0, gl.RED, gl.UNSIGNED_BYTE, padded);
  }

  /** Makes triangles and edges of the outlines, once: until then, polygons are drawn as discs. */
  addRings() {
    const { corners, first, owner } = this.places.rings;
    const triangles = [];
    for (let ring = 0; ring < owner.length; ring++) {
      const part = corners.subarray(2 * first[ring], 2 * first[ring + 1]);
      for (const k of earcut(part)) triangles.push(first[ring] + k);
    }
    const [xy, owners] = [new Float32Array(2 * triangles.length), new Float32Array(triangles.length)];
    const ringOf = new Uint32Array(corners.length / 2);
    const ends = new Float32Array(2 * corners.length);
    const edgeOwners = new Float32Array(corners.length / 2);
    for (let ring = 0; ring < owner.length; ring++) {
      for (let k = first[ring]; k < first[ring + 1]; k++) {
        const next = k + 1 < first[ring + 1] ? k + 1 : first[ring];
        ringOf[k] = ring;
        edgeOwners[k] = owner[ring];
        ends.set([corners[2 * k], corners[2 * k + 1], corners[2 * next], corners[2 * next + 1]], 4 * k);
      }
    }
    triangles.forEach((k, place) => {
      xy[2 * place] = corners[2 * k];
      xy[2 * place + 1] = corners[2 * k + 1];
      owners[place] = owner[ringOf[k]];
    });
    this.mesh = this.#program(MESH);
    this.edge = this.#program(EDGE);
    this.triangles = { array: this.#arrays(this.mesh, { xy: [xy, 2, 0], owner: [owners, 1, 0] }), n: owners.length };
    const both = { from: [ends, 2, 1, 0, 16], to: [ends, 2, 1, 8, 16], owner: [edgeOwners, 1, 1] };
    this.edges = { array: this.#arrays(this.edge, both), n: edgeOwners.length };
  }

  draw(camera, what) {
    const { gl, canvas, places } = this;
    const scale = camera.scale * camera.ratio;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!what.levels) return;
    this.#textures(what);
    const size = places.diameter * scale;
    const view = [camera.left, camera.top, (2 * scale) / canvas.width, (-2 * scale) / canvas.height];
    const use = ({ program, uniforms }, array, line) => {
      gl.useProgram(program);
      gl.bindVertexArray(array);
      gl.uniform4fv(uniforms.camera, view);
      gl.uniform1i(uniforms.width, WIDTH);
      Object.keys(this.textures).forEach((key, unit) => {
        if (uniforms[key] !== undefined) gl.uniform1i(uniforms[key], unit);
      });
      if (uniforms.opacity) gl.uniform1f(uniforms.opacity, what.opacity);
      if (uniforms.lineColor) gl.uniform3f(uniforms.lineColor, 0xd5 / 255, 0x5e / 255, 0);
      if (uniforms.line) gl.uniform1f(uniforms.line, line / scale);
      return uniforms;
    };
    const line = outlineWidth(size);
    if (!this.triangles || size < SMALL) {
      const discs = (doubts, width, opacity) => {
        const uniforms = use(this.disc, this.discs, width);
        gl.uniform1f(uniforms.radius, (size < SMALL ? size + 1 : size) / 2 / scale);
        gl.uniform1i(uniforms.doubts, doubts);
        gl.uniform1f(uniforms.opacity, opacity);
        gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, places.n);
      };
      discs(0, 0, what.opacity);
      if (!what.marked) return;
      // The line is behind the places in doubt: it covers no value, and where they touch, it runs around all of them.
      discs(1, line, 1);
      gl.blendFunc(gl.ZERO, gl.ONE_MINUS_SRC_ALPHA);
      discs(1, 0, 1);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      discs(1, 0, what.opacity);
      return;
    }
    for (const doubts of what.marked ? [0, 1] : [0]) {
      if (doubts) {
        use(this.edge, this.edges.array, line);
        gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.edges.n);
        gl.blendFunc(gl.ONE, gl.ZERO); // the line is behind the places
      }
      gl.uniform1i(use(this.mesh, this.triangles.array, line).doubts, doubts);
      gl.drawArrays(gl.TRIANGLES, 0, this.triangles.n);
    }
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  #textures({ levels, colors, marked }) {
    const { gl, textures } = this;
    if (this.levels !== levels) this.#upload(textures.levels, (this.levels = levels));
    if (this.marked !== marked || this.marked === undefined) this.#upload(textures.marks, (this.marked = marked));
    if (this.colors !== colors) {
      this.colors = colors;
      gl.bindTexture(gl.TEXTURE_2D, textures.colors);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, NONE + 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colors);
    }
    Object.values(textures).forEach((texture, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
    });
    gl.activeTexture(gl.TEXTURE7);
  }
}
