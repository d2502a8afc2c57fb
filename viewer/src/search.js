/** Search box for genes: the combobox pattern of WAI-ARIA, by keyboard or mouse. */

const MOST = 50;

export class Search {
  /** @param facts of the page @param choose is called with the position of a gene */
  constructor(input, list, facts, choose) {
    Object.assign(this, { input, list, facts, choose, shown: [], active: -1 });
    this.names = facts.genes.map((name) => name.toLowerCase());
    input.addEventListener("input", () => this.open());
    input.addEventListener("focus", () => input.select());
    input.addEventListener("click", () => this.open(true));
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.#key(event));
  }

  set value(gene) {
    this.gene = gene;
    this.input.value = this.facts.genes[gene];
  }

  matches(text) {
    const query = text.trim().toLowerCase();
    const places = [...this.names.keys()];
    const same = places.filter((k) => this.names[k] === query);
    const starts = places.filter((k) => this.names[k].startsWith(query) && this.names[k] !== query);
    const others = query ? places.filter((k) => this.names[k].indexOf(query) > 0) : [];
    return [...same, ...starts, ...others];
  }

  open(all = false) {
    const found = this.matches(all ? "" : this.input.value);
    this.shown = found.slice(0, MOST);
    this.list.replaceChildren(
      ...this.shown.map((gene, row) => {
        const option = document.createElement("li");
        option.id = `gene-option-${row}`;
        option.setAttribute("role", "option");
        const r = this.facts.expected_r?.[gene];
        option.append(this.facts.genes[gene]);
        if (r !== null && r !== undefined) {
          const note = document.createElement("span");
          note.textContent = `expected r ${number(r)}`;
          option.append(note);
        }
        // The box keeps the focus.
        option.addEventListener("mousedown", (event) => event.preventDefault());
        option.addEventListener("click", () => this.#take(row));
        return option;
      }),
    );
    if (!found.length || found.length > MOST) {
      const more = document.createElement("li");
      more.setAttribute("role", "presentation");
      more.className = "more";
      more.textContent = found.length ? `${(found.length - MOST).toLocaleString("en")} more: type a part of the name` : "No gene has this in its name";
      this.list.append(more);
    }
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.#activate(all ? -1 : this.shown.length ? 0 : -1);
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    if (this.gene !== undefined) this.input.value = this.facts.genes[this.gene];
  }

  #activate(row) {
    this.active = row;
    [...this.list.children].forEach((option, k) => {
      if (option.getAttribute("role") === "option") option.setAttribute("aria-selected", String(k === row));
    });
    if (row < 0) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", `gene-option-${row}`);
    this.list.children[row].scrollIntoView({ block: "nearest" });
  }

  #take(row) {
    this.value = this.shown[row];
    this.close();
    this.choose(this.gene);
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      if (this.list.hidden) this.open(true);
      else if (this.shown.length) this.#activate((this.active + step + this.shown.length) % this.shown.length);
    } else if (event.key === "Enter" && !this.list.hidden && this.active >= 0) {
      this.#take(this.active);
    } else if (event.key === "Escape") {
      this.close();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}

/** A number with two decimals and a minus sign. */
export function number(value, digits = 2) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
}
