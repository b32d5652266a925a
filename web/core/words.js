/** Words of the edit prompt, compared and named as in instdiff_core/refine.py. */

/** How alike words must be to be called near, as Python's difflib has it. */
const NEAR = 0.6;

/**
 * A text without case, such that "ß" and "SS" are the same: Python's `str.casefold`, which JavaScript lacks.
 *
 * @param {string} text
 */
export function folded(text) {
  // the dotless i is a letter of its own, though its capital is that of i
  return text.split("ı").map(foldedPart).join("ı");
}

/** @param {string} text */
const foldedPart = (text) => text.toLowerCase().toUpperCase().toLowerCase().replaceAll("ς", "σ");

/**
 * The numbers of the words that `target` names, case ignored.
 *
 * @param {string[]} words
 * @param {string[]} target
 * @throws {Error} for a word that is not in the edit prompt.
 */
export function targetNumbers(words, target) {
  const texts = words.map(folded);
  const names = target.map(folded);
  const missing = names.findIndex((name) => !texts.includes(name));
  if (missing >= 0) {
    const near = nearest(target[missing], words);
    const remedy = near === undefined ? "" : `; the nearest is "${near}"`;
    throw new Error(`"${target[missing]}" is not in the edit prompt${remedy}.`);
  }
  return [...texts.keys()].filter((number) => names.includes(texts[number]));
}

/**
 * The word that is most like `name`, if any is near, as Python's `difflib.get_close_matches` finds it.
 *
 * @param {string} name
 * @param {string[]} words
 */
export function nearest(name, words) {
  let best = { likeness: NEAR, text: "", word: /** @type {string | undefined} */ (undefined) };
  const wanted = [...folded(name)];
  for (const word of words) {
    const text = folded(word);
    const letters = [...text];
    const likeness = (2 * common(letters, wanted)) / (letters.length + wanted.length);
    if (likeness > best.likeness || (likeness === best.likeness && text > best.text)) best = { likeness, text, word };
  }
  return best.word;
}

/**
 * How many letters are in the longest block that both have, and in those on each side of it (Ratcliff and Obershelp).
 *
 * @param {string[]} letters
 * @param {string[]} others
 * @returns {number}
 */
function common(letters, others) {
  let [longest, end, otherEnd] = [0, 0, 0];
  let lengths = new Uint16Array(others.length + 1);
  letters.forEach((letter, i) => {
    const ending = new Uint16Array(others.length + 1);
    others.forEach((other, j) => {
      if (letter !== other) return;
      ending[j + 1] = lengths[j] + 1;
      if (ending[j + 1] > longest) [longest, end, otherEnd] = [ending[j + 1], i + 1, j + 1];
    });
    lengths = ending;
  });
  if (!longest) return 0;
  const before = common(letters.slice(0, end - longest), others.slice(0, otherEnd - longest));
  return longest + before + common(letters.slice(end), others.slice(otherEnd));
}
