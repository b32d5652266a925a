/**
 * @typedef {Record<
 *   "editor" | "waiting" | "picture" | "point" | "words" | "foundByItself" | "fits" | "named"
 *   | "namedInSettings" | "forget" | "with" | "against" | "index" | "threshold" | "reset" | "step"
 *   | "previous" | "next" | "legend" | "hand" | "parts" | "size" | "undo" | "redo" | "clear" | "full" | "brushDown" | "brushUp" | "edits" | "allEdits",
 *   string
 * > & {
 *   weight: (word: string, weight: string, roles: string[]) => string,
 *   ofSettings: (value: string) => string,
 *   inputs: Record<string, string>,
 *   unknown: (word: string, near: string | null) => string,
 *   area: (percent: string) => string,
 *   acting: (word: string, percent: number) => string,
 *   stepOf: (step: number, steps: number) => string,
 *   pictureOf: (number: number, count: number) => string,
 *   part: (number: number, share: string, kept: boolean) => string,
 *   tools: Record<import("./tools.js").Tool, { name: string, title: string }>,
 *   sizeOf: (percent: string) => string,
 * }} Texts
 */

/** @type {Texts} */
const ENGLISH = {
  editor: "Instant mask",
  waiting: "Queue the workflow to see the mask here.",
  picture:
    "Picture with the mask. Arrow keys move a crosshair, with Shift in larger steps. Enter keeps or drops the part " +
    "there, or puts the brush down and up. B paints, E erases, Escape goes back to parts, [ and ] change the brush, " +
    "Z undoes, Shift+Z does it again.",
  point: "Point at the picture to see which words act.",
  words: "Words of the edit prompt that make the mask",
  foundByItself: "Found by itself",
  fits: "The prompt fits: the mask is the rest",
  named: "From the words named here",
  namedInSettings: "From the words in the settings",
  unknown: (word, near) => `“${word}” is not in the edit prompt${near ? `: did you mean “${near}”?` : ""}`,
  forget: "Find it by itself",
  area: (percent) => `Area ${percent} %`,
  legend: "★ index word: most like the mask · + goes with it · − against it",
  weight: (word, weight, roles) => [`${word}: ${weight}`, ...roles].join(", "),
  with: "goes with the mask",
  against: "goes against the mask",
  index: "index word",
  acting: (word, percent) => `${word} ${percent} %`,
  threshold: "Threshold",
  ofSettings: (value) => `${value} (settings)`,
  inputs: { threshold: "threshold (0: settings)", steps: "steps (0: all)", edit: "edit (0: all)" },
  reset: "Use the settings' threshold",
  step: "Step",
  stepOf: (step, steps) => `${step} of ${steps}`,
  previous: "Previous picture",
  next: "Next picture",
  pictureOf: (number, count) => `Picture ${number} of ${count}`,
  edits: "Edit whose mask is shown",
  allEdits: "All",
  hand: "Correct by hand",
  parts: "Parts of the mask: press to keep or drop",
  part: (number, share, kept) => `Part ${number}, ${share}, ${kept ? "kept" : "dropped"}`,
  tools: {
    parts: { name: "Parts", title: "Click a part to drop it or keep it (V)" },
    add: { name: "Add", title: "Paint what belongs to the mask (B)" },
    erase: { name: "Erase", title: "Erase what does not (E)" },
  },
  size: "Size of the brush ([ and ], or the wheel)",
  sizeOf: (percent) => `${percent} % of the picture`,
  undo: "Undo the correction (Z)",
  redo: "Redo the correction (Shift+Z)",
  clear: "Clear all corrections of this picture",
  full: "There is no room for more corrections: undo some, or clear them.",
  brushDown: "Brush down",
  brushUp: "Brush up",
};

/** @type {Texts} */
const CHINESE = {
  editor: "即时遮罩",
  waiting: "运行工作流后，遮罩会显示在这里。",
  picture:
    "带遮罩的图像。方向键移动十字光标，按住 Shift 移动得更快。回车键保留或去除该处的部分，或落下、抬起画笔。" +
    "B 涂抹，E 擦除，Esc 返回选择部分，[ 和 ] 改变画笔大小，Z 撤销，Shift+Z 重做。",
  point: "将指针移到图像上，查看哪些词在此处起作用。",
  words: "生成遮罩的编辑提示词中的词",
  foundByItself: "自动找到",
  fits: "提示词与主体相符：遮罩为其余部分",
  named: "由此处指定的词生成",
  namedInSettings: "由设置中的词生成",
  unknown: (word, near) => `编辑提示词中没有“${word}”${near ? `：是否指“${near}”？` : ""}`,
  forget: "自动查找",
  area: (percent) => `面积 ${percent}%`,
  legend: "★ 索引词：与遮罩最相似 · + 与其一致 · − 与其相反",
  weight: (word, weight, roles) => [`${word}：${weight}`, ...roles].join("，"),
  with: "与遮罩一致",
  against: "与遮罩相反",
  index: "索引词",
  acting: (word, percent) => `${word} ${percent}%`,
  threshold: "阈值",
  ofSettings: (value) => `${value}（设置）`,
  inputs: { threshold: "阈值（0：按设置）", steps: "步数（0：全部）", edit: "编辑（0：全部）" },
  reset: "使用设置中的阈值",
  step: "步",
  stepOf: (step, steps) => `${step} / ${steps}`,
  previous: "上一张图像",
  next: "下一张图像",
  pictureOf: (number, count) => `第 ${number} 张，共 ${count} 张`,
  edits: "显示其遮罩的编辑",
  allEdits: "全部",
  hand: "手动修正",
  parts: "遮罩的各个部分：按下以保留或去除",
  part: (number, share, kept) => `第 ${number} 部分，${share}，${kept ? "保留" : "已去除"}`,
  tools: {
    parts: { name: "部分", title: "点击一个部分以去除或保留（V）" },
    add: { name: "添加", title: "涂抹属于遮罩的区域（B）" },
    erase: { name: "擦除", title: "擦除不属于遮罩的区域（E）" },
  },
  size: "画笔大小（[ 和 ]，或滚轮）",
  sizeOf: (percent) => `图像的 ${percent}%`,
  undo: "撤销修正（Z）",
  redo: "重做修正（Shift+Z）",
  clear: "清除此图像的全部修正",
  full: "没有空间容纳更多修正：请撤销一些，或清除。",
  brushDown: "画笔已落下",
  brushUp: "画笔已抬起",
};

/**
 * The widget's texts in the language of a locale such as "en" or "zh"; English where it is unknown.
 *
 * @param {string | undefined} locale
 * @returns {Texts}
 */
export function textsFor(locale) {
  return locale?.startsWith("zh") ? CHINESE : ENGLISH;
}
