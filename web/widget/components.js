/** Masks without specks and holes, as in instdiff_core/components.py: moving the threshold must not wait for the server. */

/**
 * Take a mask's specks out of it, and fill its holes: components of less than `minArea` of its largest one.
 *
 * @param {Uint8Array} mask of 0 and 1, which is changed
 * @param {number} width
 * @param {number} minArea
 */
export function clean(mask, width, minArea) {
  if (!minArea) return;
  const parts = components(mask, width, 1);
  const least = minArea * parts.sizes.reduce((most, size) => Math.max(most, size), 0);
  flipSmaller(mask, parts, least);
  flipSmaller(mask, components(mask, width, 0), least);
}

/**
 * The runs of pixels of a value in each row, and the components that they are in.
 *
 * @typedef {{ value: number, starts: number[], ends: number[], parents: number[], sizes: number[] }} Components
 *   `parents`: another run of a run's component, or the run itself, which then has the component's size in `sizes`
 */

/**
 * @param {Uint8Array} mask
 * @param {number} width
 * @param {number} value 1: what is in the mask, connected over corners too; 0: what is not, and is not
 * @returns {Components}
 */
export function components(mask, width, value) {
  /** @type {Components} */
  const found = { value, starts: [], ends: [], parents: [], sizes: [] };
  const { starts, ends, parents, sizes } = found;
  let above = 0;
  for (let row = 0; row < mask.length; row += width) {
    const first = starts.length;
    for (let at = row; at < row + width; ) {
      if (mask[at] !== value) {
        at++;
        continue;
      }
      const start = at;
      while (at < row + width && mask[at] === value) at++;
      // the runs above that reach it; the last of them may reach the next one too
      while (above < first && ends[above] + width + value <= start) above++;
      const number = starts.push(start) - 1;
      ends.push(at);
      parents.push(number);
      sizes.push(at - start);
      for (let other = above; other < first && starts[other] + width < at + value; other++) join(found, other, number);
    }
    above = first;
  }
  return found;
}

/** Make one component of those of two runs. @param {Components} found @param {number} one @param {number} other */
function join({ parents, sizes }, one, other) {
  const [root, joined] = [rootOf(parents, one), rootOf(parents, other)];
  if (root === joined) return;
  parents[joined] = root;
  sizes[root] += sizes[joined];
  sizes[joined] = 0;
}

/**
 * The run that stands for the component of a run.
 *
 * @param {number[]} parents
 * @param {number} run
 */
export function rootOf(parents, run) {
  while (parents[run] !== run) {
    parents[run] = parents[parents[run]];
    run = parents[run];
  }
  return run;
}

/** Give components of less than `least` pixels the other value. @param {Uint8Array} mask @param {Components} found @param {number} least */
function flipSmaller(mask, { value, starts, ends, parents, sizes }, least) {
  starts.forEach((start, run) => {
    if (sizes[rootOf(parents, run)] < least) mask.fill(1 - value, start, ends[run]);
  });
}
